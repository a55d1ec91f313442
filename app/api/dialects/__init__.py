"""Wire formats of others: one file a dialect, and one for its errors where they have a shape of their own."""
