"""Reading and writing rosbag2 without ROS."""
