{{- define "finetune-operator.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "finetune-operator.name" . -}}
{{- contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "finetune-operator.fullname" .)) -}}
{{- end -}}

{{/*
An object of a kind that this chart's CRDs define, from (list root object). Helm checks every kind before it makes the first object,
so where the API server does not serve ours yet (the first installation) the object is a hook that runs after the CRDs are there; the
ownership marks let the next upgrade take it over.
*/}}
{{- define "finetune-operator.custom" -}}
{{- $root := index . 0 -}}
{{- $object := index . 1 -}}
{{- $metadata := deepCopy ($object.metadata | default dict) -}}
{{- $_ := set $metadata "labels" (merge (include "finetune-operator.labels" $root | fromYaml) ($metadata.labels | default dict)) -}}
{{- if not ($root.Capabilities.APIVersions.Has (printf "%s/%s" $object.apiVersion $object.kind)) -}}
{{- $hook := dict "helm.sh/hook" "post-install,post-upgrade" "meta.helm.sh/release-name" $root.Release.Name "meta.helm.sh/release-namespace" $root.Release.Namespace -}}
{{- $_ := set $metadata "annotations" (merge $hook ($metadata.annotations | default dict)) -}}
{{- end -}}
{{- toYaml (merge (dict "metadata" $metadata) $object) -}}
{{- end -}}
