"""The keys: which there are, what each does, and the overlay that says so."""

import param
from panel.custom import JSComponent

from astrolab.dashboards.drawing import one_message

LABEL_KEYS = {"a": "anomaly", "r": "regular", "q": "unsure", "x": "artefact"}
FLAG_KEYS = {"R": "R", "C": "C", "S": "S", "A": "artefact", "P": "astrophysics"}
QUALITIES = {
    "0": "no signal",
    "1": "little signal, nothing is sure",
    "2": "possible",
    "3": "probable: one secure feature, or several weak ones",
    "4": "certain: two or more secure features",
}
HELP = [
    ("n, b", "next, previous object"),
    ("0 … 4", "quality: stores it and goes on. " + "; ".join(f"{key} {words}" for key, words in QUALITIES.items())),
    ("a, r, q, x", "label: anomaly, regular, unsure, artefact: stores it and stays"),
    ("Shift+R, C, S", "flags: bad redshift, bad class, bad spectrum"),
    ("Shift+A, P", "flags: the strangeness is an artefact, is astrophysics"),
    ("u, Ctrl+Z", "undo my last verdict"),
    ("z", "type a redshift"),
    ("[, ]", "redshift down, up by 300 km/s; with Shift ten times that"),
    ("v, e", "next known redshift; back to the ranking's"),
    ("c", "next class"),
    ("s, d", "smooth more, less"),
    ("o", "rest or observed frame"),
    ("l, t, m", "show or hide lines, reconstruction, masks"),
    ("f", "the spectrograph's single arms, or their coadd"),
    (". , ,", "zoom on the next, the previous line"),
    ("w", "the whole spectrum"),
    ("p", "match with templates and neighbours"),
    ("i", "image of the sky, from the Legacy Survey"),
    ("g", "rank again by the labels so far"),
    ("/", "type a comment"),
    ("?", "this help"),
    ("Esc", "leave a field, close this help"),
]


class Keyboard(JSComponent):
    """Send the page's key strokes to Python, save those typed into a field; show the help, and a hint at first.

    Parameters
    ----------
    actions : dict
        Key -> function of the stroke's own name, by which it is known if it is sent twice.
    """

    keys = param.List(default=HELP)

    _esm = """
    const deep = (root, selector) => {
      for (const element of root.querySelectorAll("*")) {
        if (element.matches(selector)) return element
        const found = element.shadowRoot && deep(element.shadowRoot, selector)
        if (found) return found
      }
      return null
    }
    const is_typing = (target) =>
      target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName ?? "") ||
      (target.tagName === "INPUT" && !/^(checkbox|radio|range|button)$/.test(target.type))
    const focus_on = (name) => {
      const host = deep(document, ".field-" + name)
      const field = (host?.shadowRoot ?? host)?.querySelector("input, textarea")
      field?.focus(); field?.select()
    }
    const named = (event) => {
      const key = /^[a-z]$/i.test(event.key) && !event.shiftKey ? event.key.toLowerCase() : event.key
      return (event.ctrlKey ? "Ctrl+" : "") + key
    }
    const make_help = (keys) => {
      const dialog = document.createElement("dialog")
      dialog.setAttribute("aria-label", "Keys")
      dialog.style = "max-width:620px;border:1px solid #7F858C;border-radius:6px;padding:16px 24px;font-size:13px;" +
        "line-height:1.5;background:var(--background-color,Canvas);color:var(--text-color,CanvasText)"
      const table = document.createElement("table")
      for (const [key, words] of keys) {
        const row = table.insertRow()
        row.insertCell().append(Object.assign(document.createElement("kbd"), {textContent: key}))
        row.insertCell().textContent = words
        row.cells[0].style = "white-space:nowrap;padding-right:16px;vertical-align:top;font-weight:600"
      }
      const close = Object.assign(document.createElement("button"), {textContent: "Close (Esc)"})
      close.onclick = () => dialog.close()
      dialog.append(table, close)
      return dialog
    }
    const make_hint = () => {
      const hint = document.createElement("div")
      hint.setAttribute("role", "note")
      hint.style = "position:fixed;left:50%;bottom:16px;width:max-content;max-width:calc(100vw - 64px);" +
        "transform:translateX(-50%);z-index:9;background:#005A8C;" +
        "color:white;padding:10px 16px;border-radius:6px;font-size:14px;box-shadow:0 2px 8px #0006"
      hint.textContent = "First time here? Look at the spectrum, then press 0 to 4 for how sure you are, or a for an " +
        "anomaly; n goes on. ? shows every key. "
      const close = Object.assign(document.createElement("button"), {textContent: "Got it"})
      close.onclick = () => { hint.remove(); localStorage.setItem("astrolab-vetting-hint", "seen") }
      hint.append(close)
      return hint
    }
    export function render({ model }) {
      const place = document.createElement("div")
      const help = make_help(model.keys)
      place.append(help)
      if (localStorage.getItem("astrolab-vetting-hint") === null) place.append(make_hint())
      const on_key = (event) => {
        const target = event.composedPath()[0]
        if (is_typing(target)) {
          if (event.key === "Escape" || (event.key === "Enter" && target.tagName === "INPUT")) target.blur()
          return
        }
        const key = named(event)
        if (event.altKey || event.metaKey || event.repeat && !"nb[]".includes(key)) return
        if (help.open || document.body.classList.contains("is-disconnected")) return
        if (key === "?") { help.showModal(); help.scrollTop = 0 }
        else if (key === "/") focus_on("comment")
        else if (key === "z") focus_on("redshift")
        else return model.send_msg({key, id: `${performance.timeOrigin}-${event.timeStamp}`})
        event.preventDefault()
      }
      const on_undo = (event) => {
        if (event.ctrlKey && event.key === "z" && !is_typing(event.composedPath()[0])) event.preventDefault()
      }
      document.addEventListener("keydown", on_key)
      document.addEventListener("keydown", on_undo)
      model.on("remove", () => {
        document.removeEventListener("keydown", on_key)
        document.removeEventListener("keydown", on_undo)
      })
      return place
    }
    """

    def __init__(self, actions, **params):
        super().__init__(**params)
        self._actions = actions

    def _handle_msg(self, data):
        key, name = (data.get("key"), data.get("id")) if isinstance(data, dict) else (None, None)
        if isinstance(key, str) and key in self._actions:
            with one_message():
                self._actions[key](str(name)[:64])


def keyboard_view(state):
    """Return the part that listens to keys."""
    actions = {key: lambda name, word=word: state.store(label=word, event=name) for key, word in LABEL_KEYS.items()}
    actions |= {key: lambda name, key=key: state.store(quality=int(key), event=name) for key in QUALITIES}
    actions |= {key: lambda _, flag=flag: state.toggle_flag(flag) for key, flag in FLAG_KEYS.items()}
    actions |= {key: lambda _, by=by: state.step(by) for key, by in (("n", 1), ("b", -1))}
    steps = (("[", -1), ("]", 1), ("{", -10), ("}", 10))
    actions |= {key: lambda _, by=by: state.step_redshift(by) for key, by in steps}
    actions |= {key: lambda _, by=by: _change_smoothing(state, by) for key, by in (("s", 1), ("d", -1))}
    actions |= {key: lambda _, by=by: state.step_line(by) for key, by in ((".", 1), (",", -1))}
    toggles = {"l": "with_lines", "t": "with_model", "m": "with_masks", "o": "is_observed", "i": "with_image"}
    actions |= {key: lambda _, name=name: _toggle(state, name) for key, name in toggles.items()}
    actions |= {"u": state.undo, "Ctrl+z": state.undo, "g": lambda _: state.rank_again()}
    actions |= {"v": lambda _: state.next_redshift(), "e": lambda _: state.reset_redshift()}
    actions |= {"c": lambda _: _next_class(state), "w": lambda _: _show_all(state)}
    actions |= {"f": lambda _: state.toggle_arms(), "p": lambda _: state.param.trigger("asks_match")}
    return Keyboard(actions, width=0, height=0, margin=0)


def _change_smoothing(state, by):
    low, high = state.param.smoothing.bounds
    state.smoothing = min(max(state.smoothing + by, low), high)


def _toggle(state, name):
    setattr(state, name, not getattr(state, name))


def _show_all(state):
    state.line = ""
    state.param.trigger("line")  # also where the zoom was drawn by hand


def _next_class(state):
    words = state.param.spectype.objects
    state.spectype = words[(words.index(state.spectype) + 1) % len(words)]
