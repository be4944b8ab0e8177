"""Skyring transport for RabbitMQ: a fired timer is published over AMQP 0-9-1."""

from skyring_amqp.transport import Amqp

__all__ = ["Amqp"]
