"""The page of a run and the report on its data: what they show, and the HTML."""
