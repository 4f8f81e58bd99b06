"""What a user would pick instead, called as its users call it, each in a process of its own."""
