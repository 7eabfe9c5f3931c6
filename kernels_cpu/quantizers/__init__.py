"""From f32 rows to blocks: plain rounding, and the search for scales that lose least."""
