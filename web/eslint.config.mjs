import js from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: [".tests/", "node_modules/"] },
  js.configs.recommended,
  ...tseslint.configs.strict,
  {
    files: ["src/**/*.ts", "src/**/*.tsx", "test/**/*.ts"],
    rules: {
      "@typescript-eslint/no-non-null-assertion": "off",
      "max-lines": ["error", 520],
      // prettier breaks code at 110; this holds comments to it.
      "max-len": [
        "error",
        { code: 110, ignoreUrls: true, ignoreStrings: true, ignoreTemplateLiterals: true },
      ],
      eqeqeq: "error",
      // Text of a model reaches the page as text only, and the page's policy forbids the rest.
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "use text nodes" },
        { property: "outerHTML", message: "use text nodes" },
        { property: "insertAdjacentHTML", message: "use text nodes" },
        { property: "cssText", message: "use a class" },
      ],
      "no-restricted-syntax": [
        "error",
        { selector: "JSXAttribute[name.name='dangerouslySetInnerHTML']", message: "use text nodes" },
        {
          selector: "JSXAttribute[name.name='style']",
          message: "the page's policy forbids inline styles: use a class",
        },
      ],
      "no-eval": "error",
      "no-implied-eval": "error",
    },
  },
  // Sentences in markup are not broken.
  { files: ["src/**/*.tsx"], rules: { "max-len": "off" } },
  {
    files: ["*.mjs"],
    languageOptions: { globals: { process: "readonly", console: "readonly", URL: "readonly" } },
  },
);
