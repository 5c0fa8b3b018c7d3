import platform

from flask import Flask

app = Flask(__name__)


@app.get("/")
def root():
    return {"answer": 42, "python": platform.python_version()}


app.run(host="0.0.0.0", port=5000)
