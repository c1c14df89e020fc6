"""The sender's process."""

from lensbench.tracking.sender import main

main()
