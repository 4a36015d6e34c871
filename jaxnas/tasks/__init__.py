"""Problems to search on: `losses = evaluate(archs)`."""
