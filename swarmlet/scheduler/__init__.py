"""Pure: reconcile a job with what runs, and turn the difference into a plan."""
