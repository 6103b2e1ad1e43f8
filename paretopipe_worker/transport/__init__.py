"""How tensors cross a link: one interface (`api`), and one module for each backend."""
