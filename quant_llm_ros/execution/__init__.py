"""From a decision to motion, one call after another: no ROS here, time from outside."""
