"""A whole ring on one machine under one supervisor: what ``skyring cluster`` runs."""
