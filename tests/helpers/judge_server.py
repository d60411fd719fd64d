"""An OpenAI-compatible judge on this machine, as reliable as a test wants it to be."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text):
    """The body of a chat completion."""
    message = {"role": "assistant", "content": text}
    return json.dumps({"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": message}]})


def a_judgement(prompt):
    """A grade or a verdict that depends on the prompt alone."""
    value = sum(map(ord, prompt))
    kind = f"Verdict: [[{('A', 'B', 'tie')[value % 3]}]]" if "[[tie]]" in prompt else f"Grade: [[{value % 10 + 1}]]"
    return f"Some words.\n{kind}"


class JudgeServer:
    """Runs while the `with` block is active.

    Attributes:
        answer: gets the prompt and how often it came before; returns what to do: a text to answer with, a status and a body, or
            None to drop the connection.
        together: requests wait until so many have been under way at one time.
        answers_before_waiting: how many requests are responded to; all others wait until `let_go`. None for all.
        port: 0 for any that is free.
        requests, bodies, authorizations: prompts, whole requests and headers, as they came.
        answered: prompts that got a text, in that order.
        most_at_once: the largest number of requests under way at one time.
    """

    def __init__(
        self,
        answer: Callable = lambda prompt, before: a_judgement(prompt),
        together: int = 1,
        answers_before_waiting: int | None = None,
        port: int = 0,
    ) -> None:
        self.answer, self.together, self.answers_before_waiting, self.port = answer, together, answers_before_waiting, port
        self.requests, self.answered, self.bodies, self.authorizations = [], [], [], []
        self.at_once = self.most_at_once = 0
        self._counts, self._changed = Counter(), threading.Condition()

    def __enter__(self):
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                judge.respond(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.let_go()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def let_go(self):
        """Respond to what waits, and to all that comes."""
        with self._changed:
            self.together, self.answers_before_waiting = 1, None
            self._changed.notify_all()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on what came and what was answered holds; a test that waits in vain fails."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout=300), "the judge waited in vain"

    def _may_respond(self) -> bool:
        """Whether it is a request's turn; takes the turn."""
        if self.most_at_once < self.together or self.answers_before_waiting == 0:
            return False
        if self.answers_before_waiting is not None:
            self.answers_before_waiting -= 1
        return True

    def respond(self, handler):
        """Answer one request."""
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        prompt = body["messages"][0]["content"]
        with self._changed:
            before = self._counts[prompt]
            self._counts[prompt] += 1
            self.requests.append(prompt)
            self.bodies.append(body)
            self.authorizations.append(handler.headers["authorization"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self._changed.notify_all()
            self._changed.wait_for(self._may_respond)
        action = self.answer(prompt, before)
        with self._changed:
            self.at_once -= 1
            if isinstance(action, str):
                self.answered.append(prompt)
            self._changed.notify_all()
        if action is None:
            handler.close_connection = True
            return
        status, content = action if isinstance(action, tuple) else (200, completion(action).encode())
        try:
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(content)))
            handler.send_header("retry-after-ms", "1")
            handler.end_headers()
            handler.wfile.write(content)
        except OSError:  # the client went away
            handler.close_connection = True


if __name__ == "__main__":  # a judge to try things with, until it is stopped; its grades mean nothing
    with JudgeServer(port=8000) as server:
        print(server.url, flush=True)
        threading.Event().wait()
