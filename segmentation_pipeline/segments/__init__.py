"""The life of models and memberships: fit, promotion, registry, history; does not contain the numerics (`model`)."""
