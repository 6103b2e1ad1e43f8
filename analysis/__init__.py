"""What runs after a sweep: it makes tables, Pareto fronts and figures from raw records."""

import pandas as pd

# Where pyarrow is installed, which writes Parquet, pandas keeps texts in its arrays. They differ in
# what they allow, and results must not depend on what else is installed.
pd.set_option("mode.string_storage", "python")
