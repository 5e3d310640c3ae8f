"""Classes and redshifts: templates, the χ² scan, its refinement, and one answer an object."""
