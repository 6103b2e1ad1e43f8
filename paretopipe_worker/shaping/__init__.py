"""What a host does to its link: shape it as was asked for, keep it so, and put it back."""
