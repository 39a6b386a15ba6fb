"""From the text of a command to a decision: no ROS and no torch in here."""
