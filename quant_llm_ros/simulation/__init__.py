"""A small kinematic robot in a walled world, for laptops and CI: no ROS, no wall clock."""
