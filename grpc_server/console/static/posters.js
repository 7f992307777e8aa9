// First frames of videos. A few at a time, each drawn once and then let go: a browser has six connections to a server.

const AT_A_TIME = 2;
const KEPT = 60;
const PATIENCE_MS = 15_000;
const AGAIN_MS = 50;
const WIDTH = 384;

const kept = new Map();
const waiting = [];
let running = 0;

/** Draw the first frame of the video at `url` into `canvas` once it is seen; returns what ends the interest. */
export function poster(canvas, url) {
  if (kept.has(url)) {
    draw(canvas, kept.get(url));
    return () => {};
  }
  const wish = { canvas, url, dropped: false };
  const observer = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    waiting.push(wish);
    next();
  }, { rootMargin: "200px" });
  observer.observe(canvas);
  return () => {
    wish.dropped = true;
    observer.disconnect();
  };
}

function next() {
  while (running < AT_A_TIME && waiting.length) {
    const wish = waiting.shift();
    if (wish.dropped) continue;
    running += 1;
    frame(wish.url)
      .then((image) => {
        kept.set(wish.url, image);
        if (kept.size > KEPT) {
          const [oldest, old] = kept.entries().next().value;
          kept.delete(oldest);
          old.close();
        }
        if (!wish.dropped) draw(wish.canvas, image);
      })
      .catch(() => { wish.canvas.dataset.poster = "none"; })
      .finally(() => { running -= 1; next(); });
  }
}

async function frame(url) {
  const video = document.createElement("video");
  const deadline = performance.now() + PATIENCE_MS;
  video.muted = true;
  // With less than that Chromium decodes the first frame, but gives it to nobody.
  video.preload = "auto";
  try {
    await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("too slow")), PATIENCE_MS);
      video.addEventListener("loadeddata", () => { clearTimeout(timer); resolve(); }, { once: true });
      video.addEventListener("error", () => { clearTimeout(timer); reject(new Error("not readable")); }, { once: true });
      video.src = url;
    });
    for (;;) {
      try {
        return await createImageBitmap(video, { resizeWidth: Math.min(WIDTH, video.videoWidth), resizeQuality: "medium" });
      } catch (error) {
        // The frame can come a little later than the event.
        if (performance.now() > deadline) throw error;
        await new Promise((resolve) => { setTimeout(resolve, AGAIN_MS); });
      }
    }
  } finally {
    video.removeAttribute("src");
    video.load();
  }
}

function draw(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.dataset.poster = "drawn";
}
