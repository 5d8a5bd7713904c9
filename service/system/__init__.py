"""What the service asks of the operating system: priorities of threads, and memory."""
