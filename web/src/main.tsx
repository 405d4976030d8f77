import { render } from "preact";
import { readDocument } from "./decode";
import { handle } from "./handle";
import { Report } from "./report";
import { App } from "./ui/app";
import { keepLink } from "./url";

async function main(): Promise<void> {
  const root = document.getElementById("app") ?? document.createElement("div");
  root.id = "app";
  document.body.prepend(root);
  const wait = document.createElement("p");
  wait.className = "wait";
  wait.setAttribute("role", "status");
  wait.textContent = "Reading the graph…";
  root.append(wait);
  try {
    const view = await readDocument(document);
    const report = new Report(view);
    wait.remove();
    keepLink(report);
    Object.assign(globalThis, { graphopt: handle(report) });
    render(<App report={report} />, root);
  } catch (error) {
    wait.setAttribute("role", "alert");
    wait.textContent = `This report cannot be shown. ${error instanceof Error ? error.message : String(error)}`;
    console.error(error);
  }
}

void main();
