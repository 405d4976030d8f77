import type { Report } from "../report";
import { useReport } from "./hooks";
import { Pane } from "./pane";

export function App({ report }: { report: Report }) {
  useReport(report);
  return (
    <div class="panes">
      {report.sides.map((side) => (
        <Pane key={side} report={report} side={side} />
      ))}
    </div>
  );
}
