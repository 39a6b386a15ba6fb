"""Thin ROS 2 nodes around ``command``: the only room that imports rclpy."""
