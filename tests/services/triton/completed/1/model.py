"""An old version, which is not served."""
