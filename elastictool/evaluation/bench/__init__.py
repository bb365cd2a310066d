"""Speed and memory of the parts, measured where the user is: ``elastictool bench``."""
