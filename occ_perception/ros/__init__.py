"""The only room that imports rclpy: node, synchroniser, messages, player."""
