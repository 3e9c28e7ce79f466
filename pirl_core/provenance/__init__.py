"""What a number was made of: code, packages, revision, machine."""
