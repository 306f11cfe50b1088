"""The life of models and memberships: fit, promotion, registry, history, back-test and drift."""
