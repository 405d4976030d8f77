/** One heat map: a number or a word for each node, its colours, its legend. */

import type { Graph } from "./graph";
import { isBox, itemBox, type Item } from "./layout";
import { categoryColour, heatColour } from "./palette";
import type { RawHeat } from "./types";
import { printable, quantity } from "./text";

const ADDITIVE = ["flop", "flops", "bytes", "b", "cycles", "s", "us", "µs", "ns", "ms"];

export class HeatMap {
  readonly of = new Map<number, number | string>();
  readonly categories: string[] = [];
  readonly low: number = 0;
  readonly high: number = 1;
  readonly log: boolean = false;
  readonly adds: boolean;
  private readonly sums = new Map<number, number>();
  private readonly words = new Map<number, Map<string, number>>();

  constructor(
    private readonly graph: Graph,
    readonly raw: RawHeat,
  ) {
    this.adds = raw.agg ? raw.agg === "sum" : ADDITIVE.includes(raw.unit.toLowerCase());
    for (const [node, value] of raw.v ?? []) this.of.set(node, value);
    if (raw.kind === "category") {
      const counts = new Map<string, number>();
      for (const value of this.of.values()) counts.set(String(value), (counts.get(String(value)) ?? 0) + 1);
      this.categories = [...counts.keys()].sort(
        (a, b) => counts.get(b)! - counts.get(a)! || (a < b ? -1 : 1),
      );
    } else {
      const numbers = [...this.of.values()].map(Number).filter(Number.isFinite);
      const positive = numbers.filter((n) => n > 0);
      if (numbers.length) {
        let [low, high, least] = [Infinity, -Infinity, Infinity];
        for (const n of numbers) {
          low = Math.min(low, n);
          high = Math.max(high, n);
        }
        for (const n of positive) least = Math.min(least, n);
        this.log = raw.scale ? raw.scale === "log" : low >= 0 && positive.length > 0 && high / least > 100;
        this.low = this.log ? least : Math.min(low, 0);
        this.high = high > this.low ? high : this.low + 1;
      }
    }
    this.addUp();
  }

  position(value: number): number {
    if (this.log) return value <= 0 ? 0 : Math.log(value / this.low) / Math.log(this.high / this.low || 2);
    return (value - this.low) / (this.high - this.low);
  }

  colour(value: number | string): { fill: string; ink: string } {
    if (this.raw.kind === "category") return categoryColour(this.categories.indexOf(String(value)));
    return heatColour(this.position(Number(value)));
  }

  text(value: number | string): string {
    return this.raw.kind === "category"
      ? printable(String(value), 80)
      : quantity(Number(value), this.raw.unit);
  }

  /** Colour and words of an item: a node by its value, a closed box by the sum or the largest below it. */
  tint(item: Item, node: number): { fill: string; ink: string; text: string } | null {
    if (!isBox(item)) {
      const value = this.of.get(node);
      return value === undefined ? null : { ...this.colour(value), text: this.text(value) };
    }
    const box = itemBox(item);
    if (this.raw.kind === "category") {
      const words = this.words.get(box);
      if (!words?.size) return null;
      const [word, most] = [...words].sort((a, b) => b[1] - a[1])[0];
      const text =
        words.size === 1 ? this.text(word) : `${this.text(word)} ${most}, other ${this.total(words) - most}`;
      return { ...this.colour(word), text };
    }
    const sum = this.sums.get(box);
    return sum === undefined
      ? null
      : { ...this.colour(sum), text: `${this.adds ? "Σ" : "max"} ${this.text(sum)}` };
  }

  /** Ends and middle of the legend. */
  ticks(): { at: number; text: string }[] {
    const middle = this.log ? Math.sqrt(this.low * this.high) : (this.low + this.high) / 2;
    return [this.low, middle, this.high].map((value, i) => ({
      at: i / 2,
      text: quantity(value, this.raw.unit),
    }));
  }

  private total(words: Map<string, number>): number {
    let sum = 0;
    for (const n of words.values()) sum += n;
    return sum;
  }

  private addUp(): void {
    const { boxes } = this.graph;
    for (const [node, value] of this.of) {
      if (node >= this.graph.realNodes) continue;
      for (const box of [...boxes.around(boxes.ofSlot[this.graph.slot[node]])]) {
        if (this.raw.kind === "category") {
          const words = this.words.get(box) ?? new Map<string, number>();
          words.set(String(value), (words.get(String(value)) ?? 0) + 1);
          this.words.set(box, words);
        } else {
          const old = this.sums.get(box);
          const number = Number(value);
          this.sums.set(box, old === undefined ? number : this.adds ? old + number : Math.max(old, number));
        }
      }
    }
  }
}
