"""The HTTP server: predictions of one model, a page to try it, and training on demand.

Notable: FastAPI and uvicorn are an extra. `served_model.py` is the only file that knows torch; every other file sees a
`ServedModel`. What trains runs is handed to the server (`training_routes.Runs`), because it belongs to `experiments/`.
"""
