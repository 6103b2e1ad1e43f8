"""How tensors cross a link: one small interface (`api`), and one module per backend."""
