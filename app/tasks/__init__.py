"""What a user asks for, in terms of generations: text in, text out."""
