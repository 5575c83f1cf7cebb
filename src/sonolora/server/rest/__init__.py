"""Our own REST face, `/api/...`, and the page that uses nothing else. Store and workers are those of the wire."""
