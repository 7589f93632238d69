"""Pure: feasibility, scoring and bin-packing."""
