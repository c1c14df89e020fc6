"""Images and what goes with them: where they come from, and the features of their texts."""
