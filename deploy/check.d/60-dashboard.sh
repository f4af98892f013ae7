# The dashboard as Grafana reads it: Grafana's own types, and what they do not say. 50-prometheus.sh asks its queries.
command -v npm >/dev/null || need nodejs npm

dashboard=$deploy/grafana-dashboard.json
npm=$work/npm

# typed FILE: the dashboard is what @grafana/schema says. Its type of a panel leaves options and queries open, so each
# panel type that is used here is tied to the options of its plugin. JSON has the text of an enumeration, not its member.
typed() {
  {
    cat <<'TS'
import type { Dashboard, FieldConfig, Panel, RowPanel } from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as text from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type JSON<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: JSON<T[K]> } : T;
type Of<Type, Options, Custom = never> = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Type;
  options: Partial<Options>;
  fieldConfig?: { defaults: Omit<FieldConfig, 'custom'> & { custom?: Custom }; overrides: [] };
  targets?: { refId: string; expr: string; legendFormat: string }[];
};
type Shown = RowPanel | Of<'text', text.Options> | Of<'stat', stat.Options> |
  Of<'timeseries', timeseries.Options, timeseries.FieldConfig>;

export default
TS
    printf '%s satisfies JSON<Omit<Dashboard, "panels"> & { panels: Shown[] }>;\n' "$(cat "$1")"
  } >"$npm/dashboard.ts"
  "$npm/node_modules/.bin/tsc" --noEmit --strict --module nodenext "$npm/dashboard.ts"
}

# catches FROM TO: the dashboard with FROM replaced by TO is refused, for its type and not for its syntax.
catches() {
  sed "s/$1/$2/" "$dashboard" >"$work/wrong.json"
  jq empty "$work/wrong.json" && ! cmp -s "$dashboard" "$work/wrong.json" && ! typed "$work/wrong.json" >"$work/wrong" &&
    grep -E "error TS(2|1360)" "$work/wrong"
}

# none FILTER: jq finds nothing with it. What it does find is the fault.
none() {
  jq -c "$1" "$dashboard" >"$work/found" && cat "$work/found" && [ ! -s "$work/found" ]
}

# strict FILE: Grafana's own SDK for Go reads the dashboard, with the panels of the kinds that are used here. It misses
# nothing in it, and knows all of it.
sdk=$work/sdk
strict_reader() {
  mkdir -p "$sdk" && cd "$sdk" && cat >main.go <<'GO'
package main

import (
	"fmt"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/text"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

func main() {
	known := cog.NewRuntime()
	known.RegisterPanelcfgVariant(stat.VariantConfig())
	known.RegisterPanelcfgVariant(text.VariantConfig())
	known.RegisterPanelcfgVariant(timeseries.VariantConfig())
	file, err := os.ReadFile(os.Args[1])
	if err == nil {
		err = new(dashboard.Dashboard).UnmarshalJSONStrict(file)
	}
	if err != nil && err.Error() != "" { // without a fault it is a list of none, which is not nil
		fmt.Println(err)
		os.Exit(1)
	}
}
GO
  go mod init sdk && go get github.com/grafana/grafana-foundation-sdk/go@v0.0.22 && go build -o sdk .
}
strict() { "$sdk/sdk" "$1"; }

# not_strict FROM TO: the dashboard with FROM replaced by TO is refused.
not_strict() {
  sed "s/$1/$2/" "$dashboard" >"$work/wrong.json"
  jq empty "$work/wrong.json" && ! cmp -s "$dashboard" "$work/wrong.json" && ! strict "$work/wrong.json"
}

# longest_pause: the panel has the longest pause and those below it, as Prometheus 2 writes their label, and as Prometheus 3
# does. A selector is anchored at both ends.
longest_pause() {
  local wanted quantile
  wanted=$(jq -r '.panels[] | select(.title == "Garbage collection").targets[].expr' "$dashboard" | sed -n 's/.*quantile=~"\([^"]*\)".*/\1/p')
  echo "$wanted"
  for quantile in 0.5 0.75 1 1.0; do grep -qxE "$wanted" <<<$quantile || return; done
  for quantile in 0 0.0 0.25 10; do ! grep -qxE "$wanted" <<<$quantile || return; done
}

mkdir -p "$npm"
check "npm installs Grafana's types" npm install --silent --no-audit --no-fund --prefix "$npm" @grafana/schema@13.2.3 typescript@7.0.2
check "the dashboard has Grafana's types" typed "$dashboard"
check "a panel option that is wrong is noticed" catches '"graphMode": "none"' '"graphMode": "nothing"'
check "a panel option that does not exist is noticed" catches '"thresholdsStyle"' '"thresholdStyle"'
check "Grafana's SDK for Go builds" strict_reader
check "it reads the dashboard, and is strict" strict "$dashboard"
check "it misses what is missing" not_strict '"annotations": {"list": \[\]},' ''
check "it misses what is missing in a panel" not_strict '"orientation": "auto",' ''
check "it does not know what does not exist" not_strict '"graphTooltip"' '"graphToolTip"'
check "the longest pause of the collector is drawn, whatever Prometheus calls it" longest_pause
check "its schema version is 39 to 42" none 'select(.schemaVersion < 39 or .schemaVersion > 42).schemaVersion'
check "panel ids are unique" none '.panels | group_by(.id)[] | select(length > 1) | map(.title)'
check "query ids are unique in each panel" none '.panels[] | select(.targets | . != null and length != (map(.refId) | unique | length)).title'
check "panels are 24 columns wide together, and none lies on another" none '
  [.panels[] | .gridPos + {id, title}] | combinations(2) | select(.[0] != .[1]) | select(
    .[0].x + .[0].w > 24 or (
      .[0].x < .[1].x + .[1].w and .[1].x < .[0].x + .[0].w and
      .[0].y < .[1].y + .[1].h and .[1].y < .[0].y + .[0].h)) | map(.title)'
check "no panel counts events in a window that slides: each would be drawn once a step" none '
  .panels[] | select(.type == "timeseries" and any(.targets[].expr; test("(changes|resets)\\("))).title'
