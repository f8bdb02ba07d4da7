// What HTML and HTMX cannot say: keys, the create dialog, and looking whether an edit has arrived in the index.

const LOOK_MS = 5000; // one long poll
const GIVE_UP_MS = 120000;

const announce = (text) => {
  document.getElementById("announce").textContent = text;
};

// ---- After an edit: ask until the index shows the row's present state.

async function watch(line) {
  const say = line.querySelector(".say");
  const began = performance.now();
  const address = line.dataset.watch;
  let pause = 250;
  while (line.isConnected && performance.now() - began < GIVE_UP_MS) {
    try {
      const answer = await fetch(`${address}&wait_ms=${LOOK_MS}`, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const found = await answer.json();
        say.textContent = found.message;
        if (found.settled) {
          line.classList.add("settled");
          line.removeAttribute("data-watch");
          announce(line.textContent.trim());
          return;
        }
        pause = 250;
        continue;
      }
      say.textContent = "saved, but the index cannot be asked at the moment …";
    } catch {
      say.textContent = "saved, but the server cannot be reached at the moment …";
    }
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 2, 5000);
  }
  if (line.isConnected) {
    line.classList.add("late");
    line.removeAttribute("data-watch");
    say.textContent = "not seen in the index after two minutes; the status page tells more";
  }
}

function watchAll(root) {
  for (const line of root.querySelectorAll("[data-watch]:not([data-watching])")) {
    line.setAttribute("data-watching", "");
    watch(line);
  }
}

// ---- Keys: "/" to the search, arrows through results, Escape back. Enter opens, because results are links.

const box = () => document.getElementById("q");
const stops = () => [...document.querySelectorAll("#created .open, #results .open, #results .more button")];

function move(step) {
  const all = stops();
  const at = all.indexOf(document.activeElement);
  const next = at + step;
  if (next < 0) box()?.focus();
  else if (next < all.length) {
    all[next].focus();
    all[next].scrollIntoView({ block: "nearest" });
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.closest(".editing")?.querySelector(".primary").click();
  if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  const inside = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !inside && box()) {
    event.preventDefault();
    box().focus();
    box().select();
  } else if (event.key === "ArrowDown" && (!inside || event.target === box())) {
    if (event.target === box() || stops().includes(event.target)) {
      event.preventDefault();
      move(1);
    }
  } else if (event.key === "ArrowUp" && stops().includes(event.target)) {
    event.preventDefault();
    move(-1);
  } else if (event.key === "Escape" && !event.target.closest("dialog")) {
    const open = event.target.closest(".editing");
    if (open) open.querySelector(".cancel").click();
    else if (event.target === box() && box().value) {
      event.preventDefault();
      box().value = "";
      box().dispatchEvent(new Event("input", { bubbles: true }));
    } else box()?.focus();
  }
});

// ---- Clicks that HTMX does not handle.

document.addEventListener("click", (event) => {
  const at = event.target.closest("[data-example], [data-opens], [data-closes], [data-dismiss]");
  if (!at) return;
  if (at.dataset.opens) document.getElementById(at.dataset.opens).showModal();
  else if (at.dataset.closes) document.getElementById(at.dataset.closes).close();
  else if ("dismiss" in at.dataset) document.getElementById("notice").replaceChildren();
  else if (!event.ctrlKey && !event.metaKey && !event.shiftKey && box()) {
    event.preventDefault();
    box().value = at.dataset.example;
    box().focus();
    box().form.requestSubmit();
  }
});

// ---- HTMX

// Whether a form inside the results holds what is not saved: a new search would replace it.
const unsaved = () =>
  [...document.querySelectorAll("#results .editing :is(input, textarea)")].some((field) => field.value !== field.defaultValue);

document.addEventListener("htmx:afterSettle", (event) => {
  watchAll(document);
  focusFirstNew();
  const target = event.detail.target;
  const said = target.querySelector?.("[data-announce]");
  if (target.id === "results") {
    if (said) announce(said.dataset.announce);
    // A new search shows new rows where they rank; those that are still on their way stay above.
    for (const row of document.querySelectorAll("#created > li:not(:has([data-watch]))")) row.remove();
  }
  if (target.id === "panel") announceVerdict(target);
});

document.addEventListener("htmx:oobAfterSwap", (event) => {
  if (event.detail.target.id !== "created") return;
  document.getElementById("create").close();
  document.querySelector("#created .open")?.focus();
});

// After "More", the focus goes to the first new row: the button that had it is gone.
document.addEventListener("htmx:beforeRequest", (event) => {
  const source = event.detail.elt;
  if (source.id === "search" && unsaved() && !window.confirm("Leave the changes you have not saved?")) event.preventDefault();
  if (source.id === "panel" && document.hidden) event.preventDefault();
  if (source.closest(".more")) continueAt = stops().indexOf(source);
});
let continueAt = -1;
function focusFirstNew() {
  if (continueAt >= 0) stops()[continueAt]?.focus();
  continueAt = -1;
}

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, (event) => {
    if (event.detail.elt.id === "panel") return;
    const toast = document.createElement("div");
    toast.className = "toast";
    toast.textContent = "The server cannot be reached. Nothing is lost on this page; try again in a moment.";
    document.getElementById("notice").replaceChildren(toast);
  });
}
document.addEventListener("htmx:beforeSend", () => document.getElementById("notice").replaceChildren());

// ---- The status page says a change of its verdict once, not every two seconds.

let verdict = document.querySelector("[data-announce-change]")?.dataset.announceChange;
function announceVerdict(panel) {
  const now = panel.querySelector("[data-announce-change]")?.dataset.announceChange;
  if (now !== verdict) announce(now ?? "");
  verdict = now;
}

watchAll(document);
