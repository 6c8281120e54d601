"""A teacher labels photos without labels for the detector that is trained."""
