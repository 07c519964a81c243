//! What a dashboard consists of, and the JSON that Grafana reads.

use serde_json::{Value, json};

/// A dashboard: rows of panels, below a title each.
pub(crate) struct Dashboard {
    pub(crate) uid: &'static str,
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    /// With a variable for the rule.
    pub(crate) by_rule: bool,
    pub(crate) rows: Vec<(&'static str, Vec<Panel>)>,
}

pub(crate) struct Panel {
    pub(crate) title: &'static str,
    pub(crate) description: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) view: View,
    pub(crate) targets: Vec<Target>,
    /// From these values on, in these colours; below the first: green.
    pub(crate) thresholds: &'static [(f64, &'static str)],
    /// Out of 24.
    pub(crate) width: u32,
    pub(crate) height: u32,
}

pub(crate) struct Target {
    pub(crate) expression: String,
    pub(crate) legend: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// One number, over a small graph.
    Number,
    Lines,
    /// Lines on a logarithmic axis, for latencies.
    Latency,
    /// Areas on top of each other.
    Stacked,
    Heatmap,
    /// Ready or not, over time.
    States,
    /// One row for each value of these labels, one column for each target.
    Table(&'static [Column]),
}

/// A column of a table: the label or the target's legend, its unit, and the dashboard that a click leads to.
pub(crate) type Column = (&'static str, &'static str, Option<&'static str>);

/// Selects what the variables choose. With `RULE`, also the rule.
pub(crate) const ENGINE: &str = r#"job=~"$job",instance=~"$instance",engine=~"$engine""#;
pub(crate) const RULE: &str = r#"job=~"$job",instance=~"$instance",engine=~"$engine",rule=~"$rule""#;

const UIDS: [(&str, &str); 3] =
    [("etcd-rules-overview", "Overview"), ("etcd-rules-rule", "Rule"), ("etcd-rules-engine", "Engine")];

/// A panel of the usual size.
pub(crate) fn panel(
    view: View,
    title: &'static str,
    unit: &'static str,
    description: &'static str,
    targets: impl IntoIterator<Item = (String, &'static str)>,
) -> Panel {
    let (width, height) = match view {
        View::Number => (4, 4),
        View::States => (24, 5),
        View::Table(_) => (24, 8),
        _ => (8, 8),
    };
    let targets = targets.into_iter().map(|(expression, legend)| Target { expression, legend }).collect();
    Panel { title, description, unit, view, targets, thresholds: &[], width, height }
}

impl Panel {
    pub(crate) fn thresholds(self, thresholds: &'static [(f64, &'static str)]) -> Self {
        Self { thresholds, ..self }
    }

    pub(crate) fn size(self, width: u32, height: u32) -> Self {
        Self { width, height, ..self }
    }
}

/// The rate at which a counter of the selection grows, summed up by labels.
pub(crate) fn rate(by: &str, metric: &str, selector: &str) -> String {
    format!("sum by ({by}) (rate(etcd_rules_{metric}{{{selector}}}[$__rate_interval]))")
}

/// A quantile of a histogram, by labels.
pub(crate) fn quantile(q: f64, by: &str, metric: &str, selector: &str) -> String {
    let by = if by.is_empty() { "le".to_owned() } else { format!("le, {by}") };
    format!("histogram_quantile({q}, {})", rate(&by, &format!("{metric}_bucket"), selector))
}

/// The usual three quantiles.
pub(crate) fn quantiles(metric: &str, selector: &str) -> Vec<(String, &'static str)> {
    [(0.5, "p50"), (0.95, "p95"), (0.99, "p99")]
        .map(|(q, legend)| (quantile(q, "", metric, selector), legend))
        .into()
}

/// A gauge of the selection, put together by labels: `sum`, `max` and so on.
pub(crate) fn gauge(how: &str, by: &str, metric: &str, selector: &str) -> String {
    format!("{how} by ({by}) (etcd_rules_{metric}{{{selector}}})")
}

impl Dashboard {
    pub(crate) fn panels(&self) -> impl Iterator<Item = &Panel> {
        self.rows.iter().flat_map(|(_, panels)| panels)
    }

    /// The queries of its variables.
    pub(crate) fn variables(&self) -> Vec<(&'static str, &'static str)> {
        let mut variables = vec![
            ("job", "label_values(etcd_rules_health, job)"),
            ("instance", r#"label_values(etcd_rules_health{job=~"$job"}, instance)"#),
            ("engine", r#"label_values(etcd_rules_health{job=~"$job",instance=~"$instance"}, engine)"#),
        ];
        if self.by_rule {
            variables.push((
                "rule",
                r#"label_values(etcd_rules_slots{job=~"$job",instance=~"$instance",engine=~"$engine"}, rule)"#,
            ));
        }
        variables
    }

    pub(crate) fn json(&self) -> String {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        let mut next = || {
            id += 1;
            id
        };
        for (title, row) in &self.rows {
            panels.push(json!({
                "id": next(), "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": { "x": 0, "y": y, "w": 24, "h": 1 },
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in row {
                if x + panel.width > 24 {
                    y += height;
                    (x, height) = (0, 0);
                }
                panels.push(panel.json(next(), x, y));
                x += panel.width;
                height = height.max(panel.height);
            }
            y += height;
        }
        let variable = |(name, query): (&str, &str)| {
            json!({
                "name": name, "label": name, "type": "query", "datasource": datasource(), "hide": 0,
                "query": { "query": query, "refId": name }, "definition": query, "refresh": 2, "sort": 1,
                "regex": "", "skipUrlSync": false, "options": [],
                "multi": true, "includeAll": true, "allValue": ".*",
                "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
            })
        };
        let mut variables = vec![json!({
            "name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus", "hide": 0,
            "refresh": 1, "regex": "", "skipUrlSync": false, "options": [], "multi": false, "includeAll": false,
            "current": { "selected": true, "text": "default", "value": "default" },
        })];
        variables.extend(self.variables().into_iter().map(variable));
        let others = UIDS.iter().filter(|(uid, _)| *uid != self.uid);
        let links = others.map(|(uid, title)| {
            json!({
                "type": "link", "title": title, "url": format!("/d/{uid}"), "icon": "dashboard", "tags": [],
                "tooltip": "", "asDropdown": false, "includeVars": true, "keepTime": true, "targetBlank": false,
            })
        });
        let dashboard = json!({
            "uid": self.uid, "title": self.title, "description": self.description, "tags": ["etcd-rules"],
            "schemaVersion": 41, "version": 1, "editable": true, "graphTooltip": 1, "fiscalYearStartMonth": 0,
            "timezone": "browser", "refresh": "30s", "weekStart": "",
            "time": { "from": "now-1h", "to": "now" }, "timepicker": {},
            "templating": { "list": variables }, "annotations": { "list": [self.restarts()] },
            "links": links.collect::<Vec<_>>(), "panels": panels,
        });
        serde_json::to_string_pretty(&dashboard).expect("JSON") + "\n"
    }

    /// Marks restarts of the actors in all graphs.
    fn restarts(&self) -> Value {
        json!({
            "name": "Restarts", "datasource": datasource(), "enable": true, "hide": false, "iconColor": "purple",
            "expr": RESTARTS, "step": "30s", "titleFormat": "engine restarted", "textFormat": "{{engine}} on {{instance}}",
        })
    }
}

/// What the annotation of restarts asks for.
pub(crate) const RESTARTS: &str =
    r#"changes(etcd_rules_restarts_total{job=~"$job",instance=~"$instance",engine=~"$engine"}[1m]) > 0"#;

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

impl Panel {
    fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let name = match self.view {
            View::Number => "stat",
            View::Lines | View::Latency | View::Stacked => "timeseries",
            View::Heatmap => "heatmap",
            View::States => "state-timeline",
            View::Table(_) => "table",
        };
        let table = matches!(self.view, View::Table(_));
        let targets = self.targets.iter().zip('A'..='Z').map(|(target, letter)| {
            json!({
                "refId": letter.to_string(), "expr": target.expression, "legendFormat": target.legend,
                "datasource": datasource(), "editorMode": "code", "instant": table, "range": !table, "exemplar": false,
                "format": match self.view { View::Heatmap => "heatmap", View::Table(_) => "table", _ => "time_series" },
            })
        });
        let mut panel = json!({
            "id": id, "type": name, "title": self.title, "description": self.description,
            "datasource": datasource(), "targets": targets.collect::<Vec<_>>(), "transparent": false,
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height },
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] }, "options": self.options(),
        });
        if let View::Table(columns) = self.view {
            panel["transformations"] = self.transformations(columns);
            panel["fieldConfig"]["overrides"] = columns.iter().map(column).collect();
        }
        panel
    }

    fn defaults(&self) -> Value {
        let first = json!({ "color": "green", "value": null });
        let steps = self.thresholds.iter().map(|(from, color)| json!({ "color": color, "value": from }));
        let thresholds: Vec<Value> = std::iter::once(first).chain(steps).collect();
        let mut defaults = json!({
            "unit": self.unit, "thresholds": { "mode": "absolute", "steps": thresholds }, "mappings": [],
            "color": { "mode": if self.thresholds.is_empty() { "palette-classic" } else { "thresholds" } },
        });
        match self.view {
            View::Lines | View::Latency | View::Stacked => {
                let stacked = self.view == View::Stacked;
                let scale = match self.view {
                    View::Latency => json!({ "type": "log", "log": 10 }),
                    _ => json!({ "type": "linear" }),
                };
                defaults["color"]["mode"] = "palette-classic".into();
                if self.view != View::Latency {
                    defaults["min"] = 0.into();
                }
                defaults["custom"] = json!({
                    "drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "spanNulls": false,
                    "fillOpacity": if stacked { 60 } else { 8 }, "showPoints": "never", "scaleDistribution": scale,
                    "stacking": { "mode": if stacked { "normal" } else { "none" }, "group": "A" },
                    "thresholdsStyle": { "mode": if self.thresholds.is_empty() { "off" } else { "line" } },
                    "axisPlacement": "auto",
                });
            }
            View::States => {
                defaults["color"]["mode"] = "thresholds".into();
                defaults["custom"] = json!({ "lineWidth": 0, "fillOpacity": 80 });
                defaults["mappings"] = json!([{ "type": "value", "options": {
                    "0": { "text": "not ready", "color": "red", "index": 0 },
                    "1": { "text": "ready", "color": "green", "index": 1 },
                } }]);
            }
            View::Heatmap | View::Number | View::Table(_) => {}
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.view {
            View::Number => json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": if self.thresholds.is_empty() { "none" } else { "background" },
                "graphMode": "area", "justifyMode": "auto", "orientation": "auto", "textMode": "auto",
                "wideLayout": true, "showPercentChange": false, "percentChangeColorMode": "standard",
            }),
            View::Lines | View::Latency | View::Stacked => json!({
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
            View::Heatmap => json!({
                "calculate": false, "cellGap": 1, "yAxis": { "unit": self.unit, "axisPlacement": "left" },
                "color": { "mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange",
                           "scale": "exponential", "reverse": false },
                "filterValues": { "le": 1e-9 }, "legend": { "show": true }, "rowsFrame": { "layout": "le" },
                "showValue": "never", "tooltip": { "mode": "single", "yHistogram": false },
                "exemplars": { "color": "rgba(255,0,255,0.7)" },
            }),
            View::States => json!({
                "mergeValues": true, "showValue": "auto", "alignValue": "left", "rowHeight": 0.8,
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [] },
                "tooltip": { "mode": "single", "sort": "none" },
            }),
            View::Table(_) => {
                json!({ "showHeader": true, "frameIndex": 0, "cellHeight": "sm", "footer": { "show": false, "reducer": [] } })
            }
        }
    }

    /// Puts the answers to all targets into one row for each set of labels, under the legends' names.
    fn transformations(&self, columns: &[Column]) -> Value {
        let names = self.targets.iter().zip('A'..='Z').map(|(target, letter)| {
            // The answer to a single target has no letter.
            let value = if self.targets.len() == 1 { "Value".to_owned() } else { format!("Value #{letter}") };
            (value, json!(target.legend))
        });
        let order = columns.iter().enumerate().map(|(at, (name, ..))| {
            let target = self.targets.iter().position(|target| target.legend == *name);
            let letter = target.map(|at| format!("Value #{}", char::from(b'A' + at as u8)));
            (letter.unwrap_or_else(|| (*name).to_owned()), json!(at))
        });
        json!([
            { "id": "merge", "options": {} },
            { "id": "organize", "options": {
                "excludeByName": { "Time": true },
                "renameByName": names.collect::<serde_json::Map<_, _>>(),
                "indexByName": order.collect::<serde_json::Map<_, _>>(),
            } },
        ])
    }
}

fn column((name, unit, leads_to): &Column) -> Value {
    let mut properties = vec![json!({ "id": "unit", "value": unit })];
    if let Some(uid) = leads_to {
        // The variable that has the column's name takes the value that was clicked.
        properties.push(json!({ "id": "links", "value": [{
            "title": "Details", "targetBlank": false,
            "url": format!("/d/{uid}?${{__url_time_range}}&${{datasource:queryparam}}&${{job:queryparam}}&var-{name}=${{__value.raw}}"),
        }] }));
    }
    json!({ "matcher": { "id": "byName", "options": name }, "properties": properties })
}
