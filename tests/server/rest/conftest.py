from rest_fixtures import assistant_here, dataset

__all__ = ["assistant_here", "dataset"]
