"""The panels of the app, one file each."""
