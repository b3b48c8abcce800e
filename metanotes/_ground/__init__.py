"""The small tools that everything else uses: checks, files, random numbers, checkpoints."""
