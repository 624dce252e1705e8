// Spectrograms become players: press to hear, click inside to start there, one sound at a time.
// Without this script the browser's own audio controls stay.
"use strict";
const tiles = [...document.querySelectorAll(".tile")];

function setUp(tile) {
  const audio = tile.querySelector("audio");
  const picture = tile.querySelector(".picture");
  const length = Number(tile.dataset.seconds);
  const button = Object.assign(document.createElement("button"), { type: "button", className: "play" });
  const cursor = Object.assign(document.createElement("span"), { className: "cursor" });
  const name = audio.getAttribute("aria-label");
  const say = (verb) => button.setAttribute("aria-label", `${verb} ${name}`);
  audio.controls = false;
  audio.style.display = "none";
  say("Play");
  picture.append(cursor, button);

  const follow = () => {
    cursor.style.left = `${(100 * audio.currentTime) / length}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  button.addEventListener("click", (event) => {
    // A key press has no place: it starts from the beginning, or stops.
    const pointed = event.detail > 0;
    const box = picture.getBoundingClientRect();
    const corner = box.right - event.clientX < 44 && box.bottom - event.clientY < 44;
    if (!audio.paused && (!pointed || corner)) return audio.pause();
    audio.currentTime = pointed && !corner ? (length * (event.clientX - box.left)) / box.width : 0;
    audio.play();
  });
  audio.addEventListener("play", () => {
    for (const other of tiles) if (other !== tile) other.querySelector("audio").pause();
    tile.classList.add("playing");
    say("Stop");
    follow();
  });
  for (const end of ["pause", "ended"]) {
    audio.addEventListener(end, () => { tile.classList.remove("playing"); say("Play"); });
  }
}

tiles.forEach(setUp);
