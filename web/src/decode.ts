/** Reads the document that the page carries. */

import type { RawView } from "./types";

const SCHEMA = "graphopt.view/1";

/** The view document of this page. Throws an Error with a sentence for people when there is none. */
export async function readDocument(page: Document): Promise<RawView> {
  const packed = page.getElementById("view-gz");
  const plain = page.getElementById("view");
  if (packed) return check(JSON.parse(await inflate(packed.textContent ?? "")));
  if (plain) return check(JSON.parse(plain.textContent ?? ""));
  throw new Error("This page carries no graph: the element 'view' is missing.");
}

/** Text of base64 of gzip. */
export async function inflate(text: string): Promise<string> {
  const binary = atob(text.replace(/\s+/g, ""));
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

export function check(view: RawView): RawView {
  if (view?.schema !== SCHEMA) {
    throw new Error(`This page shows ${SCHEMA}, and its data says ${String(view?.schema)}.`);
  }
  if (!view.steps?.length) throw new Error("The graph of this page has no step to show.");
  return view;
}
