{{- define "skyring.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "skyring.headless" -}}
{{ include "skyring.name" . }}-headless
{{- end }}

{{- define "skyring.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "skyring.labels" -}}
{{ include "skyring.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "skyring.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* Settings as TOML: what stands outside every table, then the tables, then those of transports. */}}
{{- define "skyring.toml" -}}
{{- range $name, $value := . }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $group, $settings := . }}
{{- if kindIs "map" $settings }}

[{{ $group }}]
{{- range $name, $value := $settings }}
{{- if not (or (kindIs "map" $value) (kindIs "invalid" $value)) }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $name, $options := $settings }}
{{- if kindIs "map" $options }}

[{{ $group }}.{{ $name }}]
{{- range $option, $value := $options }}
{{ $option }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/*
Seconds from the end being announced to the end at the latest: both pauses, then up to the drain for
each of slots that are handed over, requests that end, deliveries that end, and every transport that
is closed (webhooks and those that are loaded), and some for cutting off what does not end.
*/}}
{{- define "skyring.grace" -}}
{{- $shutdown := .Values.settings.shutdown }}
{{- $transport := .Values.settings.transport | default dict }}
{{- $loaded := len ($transport.load | default list) }}
{{- $ms := add (int $shutdown.ready_delay_ms) (mul (add 4 $loaded) (int $shutdown.drain_ms)) }}
{{- add (int .Values.preStopSeconds) (div (add $ms 999) 1000) 20 (mul 5 $loaded) }}
{{- end }}

{{- define "skyring.check" -}}
{{- if not (regexMatch "^[a-z0-9-]{1,50}$" (include "skyring.name" .)) }}
{{- fail "a release is named with at most 50 lower-case letters, digits and dashes: its pods are, and so are the nodes" }}
{{- end }}
{{- if and (gt (int .Values.replicas) 1) (not .Values.settings.nats.servers) }}
{{- fail "nodes without NATS stand alone: several of them need settings.nats.servers" }}
{{- end }}
{{- if hasKey .Values.settings "node" }}
{{- fail "settings.node is the name of the pod, and different on each" }}
{{- end }}
{{- end }}
