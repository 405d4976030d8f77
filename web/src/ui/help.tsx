import { useEffect, useRef } from "preact/hooks";
import { BINDINGS } from "../keys";
import type { Report } from "../report";

export function Help({ report }: { report: Report }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const shown = dialog.current!;
    shown.showModal();
    return () => shown.close();
  }, []);
  const sections = [...new Set(BINDINGS.map(({ section }) => section))];
  const close = (): void => report.set({ help: false });
  return (
    <dialog
      ref={dialog}
      class="help"
      aria-labelledby="help-title"
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
    >
      <header>
        <h2 id="help-title">Keys</h2>
        <button type="button" onClick={close}>
          Close
        </button>
      </header>
      <div class="help-sections">
        {sections.map((section) => (
          <section key={section}>
            <h3>{section}</h3>
            <dl>
              {BINDINGS.filter((binding) => binding.section === section).map(({ label, about }) => (
                <div key={label}>
                  <dt>
                    <kbd>{label}</kbd>
                  </dt>
                  <dd>{about}</dd>
                </div>
              ))}
            </dl>
          </section>
        ))}
      </div>
      <p class="hint">
        Drag to pan, turn the wheel to zoom, double-click a group to open it. In the search,{" "}
        <code>op:conv</code>, <code>dtype:float16</code>, <code>shape:1x3</code>, <code>group:encoder</code>{" "}
        and <code>name:</code> look in one place.
      </p>
    </dialog>
  );
}
