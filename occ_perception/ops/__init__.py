"""Heavy operations: a readable torch reference and its fast twins behind one signature."""
