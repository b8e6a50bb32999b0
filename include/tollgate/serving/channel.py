"""The channel on which PostgreSQL says that a route has moved (LISTEN and NOTIFY)."""

ROUTES_CHANNEL = "tollgate_routes"
