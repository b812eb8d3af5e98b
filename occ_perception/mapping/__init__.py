"""What planners and maps need from a prediction: observed space, costs, obstacles, a map."""
