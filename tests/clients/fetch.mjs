// usage: node fetch.mjs URL PHOTO: print the top class, and the number of bytes of the heatmap

import { readFileSync } from "node:fs";

const [url, photo] = process.argv.slice(2);
const image = new Blob([readFileSync(photo)], { type: "image/jpeg" });

async function post(path, body) {
  const response = await fetch(url + path, { method: "POST", body });
  if (!response.ok) throw new Error(await response.text());
  return response;
}

const form = new FormData();
form.append("image", image, "photo.jpg");
form.append("top_k", "1");
const prediction = await (await post("/predict", form)).json();
console.log(prediction.predictions[0].label);

const map = await (await post("/cam", image)).arrayBuffer();
console.log(map.byteLength);
